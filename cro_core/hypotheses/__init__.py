"""What is worth testing next, from the site's own media and its present winners."""
