#!lua flags=allow-oom
-- needs: ending
-- ARGV: session, request, seconds to remember it, worker, limit, maximum bytes.
-- Returns the leased entries, each 'NUMBER SIZE ID'. The caller reads the results itself: passing them
-- through a script costs the server several times as much.

local worker, limit, max_bytes = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local LENT = base .. ':lent:' .. worker

local function again(memory)
  local entries = {}
  for _, entry in ipairs(cmsgpack.unpack(memory)) do
    if call('HEXISTS', LENT, entry:match('^%d+')) == 1 then
      entries[#entries + 1] = entry
    end
  end
  return entries
end

local before = answered()
if before then
  return before == 'overtaken' and {} or again(before)
end

-- The oldest records within `max_bytes`, but at least one.
local function fitting()
  local entries, total = {}, 0
  for _, entry in ipairs(call('ZRANGE', OUTBOX, 0, limit - 1)) do
    local size = tonumber(entry:match('^%d+ (%d+)'))
    if #entries > 0 and total + size > max_bytes then
      break
    end
    total = total + size
    entries[#entries + 1] = entry
  end
  return entries
end

end_lapsed(now())
wake_idle()
local entries = {}
if call('HEXISTS', base .. ':worker:' .. worker, 'serves') == 1 then -- Else they would stay leased.
  entries = fitting()
end
for _, entry in ipairs(entries) do
  later('ZREM', OUTBOX, entry)
  later('HSET', LENT, entry:match('^%d+'), entry)
end
flush()
remember(cmsgpack.pack(entries))
return entries
