"""Renders the sections that the other rooms return: one self-contained page and one model card. It judges nothing."""
