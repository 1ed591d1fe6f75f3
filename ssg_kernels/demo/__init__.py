"""A small next-scale image model of the project's own: data, tokenizer, transformer, training, study."""
