"""What is changed in a text, and which texts are left out: cleaning, languages, personal data."""
