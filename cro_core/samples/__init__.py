"""Made-up visitors, pictures and clips: for the demo, for samples, for tests."""
