"""The user's own models, which help to prepare data."""
