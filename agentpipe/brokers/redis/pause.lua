#!lua flags=allow-oom
-- ARGV: '1' to pause or '0' to resume, and what: 'queue NAME' or 'collection NAME'.

local paused, names = ARGV[1] == '1', {}

for index = 2, #ARGV do
  call(paused and 'SADD' or 'SREM', PAUSES, ARGV[index])
end
for _, name in ipairs(call('HKEYS', QUEUES)) do
  names[#names + 1] = name
end
read_queues(names)
for _, name in ipairs(names) do
  local queue = queues[name]
  local flag = is_paused(name, queue[COLLECTION]) and 1 or 0
  if flag ~= queue[PAUSED] then
    queue[PAUSED], changed[name] = flag, true
  end
end
save_queues()
if not paused and anything_ready() then
  ring()
end
