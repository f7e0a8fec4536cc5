#!lua flags=no-writes
-- needs: budgets
-- Returns six values for each budget: kind, name, caps in USD and tokens (-1 for none), spent USD
-- and tokens.

return budgets.tell_all()
