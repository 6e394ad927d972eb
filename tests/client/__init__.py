"""fastxs's own clients: what they say to three daemons, and what happens to those who wait for them."""
