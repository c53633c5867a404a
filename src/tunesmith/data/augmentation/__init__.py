"""More training rows: noise, paraphrases, balance."""
