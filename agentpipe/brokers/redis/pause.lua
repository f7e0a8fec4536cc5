#!lua flags=allow-oom
-- ARGV: '1' to pause or '0' to resume, reason or '', and targets: 'queue NAME' or 'collection
-- NAME'. Returns 1 if there is more to apply: call `apply_changes`.

local paused, reason = ARGV[1] == '1', ARGV[2]
local names, is_of_collections = {}, false

for index = 3, #ARGV do
  local target = ARGV[index]
  call(paused and 'SADD' or 'SREM', PAUSES, target)
  if not paused then
    call('HDEL', REASONS, target)
    call('HDEL', STREAKS, target:match('^collection (.*)$') or '')
  elseif reason ~= '' then
    call('HSET', REASONS, target, reason)
  end
  names[#names + 1] = target:match('^queue (.*)$')
  is_of_collections = is_of_collections or target:match('^collection ') ~= nil
end
pauses.set_flags(names)
if is_of_collections then
  pauses.begin('flags')
end
save_queues()
wake_idle()
return call('EXISTS', CHANGES)
