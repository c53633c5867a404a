"""What a person should look at: label errors, bias, coverage, the datasheet."""
