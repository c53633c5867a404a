"""The loop that learns. It knows no objective's and no method's name."""
