"""Language models: loading, chat templates, embeddings, adapters, generation and the likelihood of completions."""
