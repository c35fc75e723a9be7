"""Where pictures to learn from and to be measured on come from."""
