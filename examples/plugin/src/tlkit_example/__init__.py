"""Parts for tlkit. Nothing is imported here: tlkit imports a part's own module when it is used."""
