#!lua flags=no-writes
-- ARGV: kind ('dead' or 'undeliverable'), first and last microsecond of death ('(' excludes it),
-- limit; then collection, outcome, lowercase substring of the reason, and id prefix, each '' for
-- any.
-- Returns the microsecond after which the next page starts ('' at the end), then six values for
-- each letter: id, queue, collection, outcome, reason, microsecond of death. Scans a bounded number
-- of letters.

local LETTERS = base .. ':' .. ARGV[1]
local limit, collection, outcome, part = tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local prefix = ARGV[8]

local function fits(id, letter)
  return letter[1] and id:sub(1, #prefix) == prefix and (collection == '' or letter[2] == collection)
    and (outcome == '' or letter[3] == outcome)
    and (part == '' or letter[4]:lower():find(part, 1, true))
end

local entries = call('ZRANGEBYSCORE', LETTERS, ARGV[2], ARGV[3], 'WITHSCORES', 'LIMIT', 0,
  PORTION)
local reply, found, seen = {''}, 0, 0
for index = 1, #entries, 2 do
  if found >= limit then
    break
  end
  local id, died = entries[index], entries[index + 1]
  local letter = call('HMGET', LETTERS .. ':' .. id, 'queue', 'collection', 'outcome', 'reason')
  seen = index + 1
  if fits(id, letter) then
    found = found + 1
    for _, value in ipairs({id, letter[1], letter[2], letter[3], letter[4], died}) do
      reply[#reply + 1] = value
    end
  end
end
if seen > 0 and (seen < #entries or #entries == 2 * PORTION) then
  reply[1] = entries[seen]
end
return reply
