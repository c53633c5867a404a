"""Changes texts and filters rows: cleaning, languages, personal data."""
