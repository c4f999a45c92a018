"""What is compared between a challenger and the control."""
