"""What reviewers should look at: label errors, bias, coverage, the datasheet."""
