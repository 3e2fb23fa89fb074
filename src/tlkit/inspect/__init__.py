"""Checking data before training: content, duplicates, shortcuts, splits. `tlkit data` is this."""
