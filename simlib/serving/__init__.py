"""The batching model of LLM serving: KV cache, scheduler, router, link."""
