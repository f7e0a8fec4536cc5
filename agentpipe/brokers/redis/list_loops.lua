#!lua flags=no-writes
-- needs: loops
-- Returns the row of each loop.

return loops.rows(look().time)
