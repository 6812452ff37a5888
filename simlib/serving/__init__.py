"""The batching model of LLM serving: latency, KV cache, scheduler, router, link."""
