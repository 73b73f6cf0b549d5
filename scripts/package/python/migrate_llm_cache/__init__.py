"""The program migrate-llm-cache, installed as a command; `python -m migrate_llm_cache` runs it too."""
