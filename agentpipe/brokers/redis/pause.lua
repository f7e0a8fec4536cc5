#!lua flags=allow-oom
-- ARGV: '1' to pause or '0' to resume, reason or '', and targets: 'queue NAME' or 'collection
-- NAME'.

local paused, reason = ARGV[1] == '1', ARGV[2]

for index = 3, #ARGV do
  call(paused and 'SADD' or 'SREM', PAUSES, ARGV[index])
  if not paused then
    call('HDEL', REASONS, ARGV[index])
    call('HDEL', STREAKS, ARGV[index]:match('^collection (.*)$') or '')
  elseif reason ~= '' then
    call('HSET', REASONS, ARGV[index], reason)
  end
end
apply_pauses()
save_queues()
wake_idle()
