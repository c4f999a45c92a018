"""What will be asked of the visitors, and what their number can answer."""
