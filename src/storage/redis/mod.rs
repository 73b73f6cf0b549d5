//! LightRAG's `RedisKVStorage`: one string a record.
