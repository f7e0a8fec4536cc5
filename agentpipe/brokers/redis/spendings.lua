#!lua flags=no-writes
-- needs: budgets
-- Returns six values for each budget: kind, name, the caps in USD and in tokens, -1 for none, and
-- what is spent of each.

return budgets.tell_all()
