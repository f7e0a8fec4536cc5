#!lua flags=allow-oom
-- needs: budgets
-- ARGV: 'collection NAME' or 'run NAME', caps in USD and tokens (-1 for none). Returns 1 if there is
-- more to apply: call `apply_changes`.

local holder = ARGV[1]

if budgets.limit(holder, ARGV[2], ARGV[3]) then
  pauses.begin(holder:match('^run ') and holder or 'flags')
  save_queues()
  wake_all()
end
return call('EXISTS', CHANGES)
