"""`tlkit probe`: which of the pretrained networks on this machine suits the images."""
