"""Who sees what: visitors to buckets, buckets to variants, and tomorrow's shares."""
