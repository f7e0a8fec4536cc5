#!lua flags=no-writes
-- ARGV: kind, maximum bytes, and ids. Returns how many ids it looked up (at least one), then eight
-- values for each letter: id, queue, collection, outcome, reason, microsecond of death, payload,
-- result.

local LETTERS = base .. ':' .. ARGV[1]
local max_bytes, reply, bytes = tonumber(ARGV[2]), {0}, 0
for index = 3, #ARGV do
  local id = ARGV[index]
  local died = call('ZSCORE', LETTERS, id)
  local letter = died and call('HMGET', LETTERS .. ':' .. id, 'queue', 'collection', 'outcome',
    'reason', 'payload', 'result')
  reply[1] = index - 2
  if letter and letter[1] then
    for _, value in ipairs({id, letter[1], letter[2], letter[3], letter[4], died, letter[5],
      letter[6]}) do
      reply[#reply + 1] = value
    end
    bytes = bytes + #letter[5] + #letter[6]
    if bytes >= max_bytes then
      break
    end
  end
end
return reply
