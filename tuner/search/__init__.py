"""Search: which variant to try next, asked and told without a compiler."""
