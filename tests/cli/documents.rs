//! README and example are held to the code.
