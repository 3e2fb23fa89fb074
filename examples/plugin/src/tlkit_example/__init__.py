"""Parts for tlkit. tlkit imports a part's module when the part is used, so this file is empty."""
