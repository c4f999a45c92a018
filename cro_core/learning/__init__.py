"""What finished experiments teach: which assets do best, and what a new variant may do."""
