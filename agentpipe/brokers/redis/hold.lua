#!lua flags=allow-oom
-- needs: holding
-- ARGV: seconds, and queues from which nothing is claimed for so long. Ignores unknown queues.

local names = {}
for index = 2, #ARGV do
  names[index - 1] = ARGV[index]
end
hold(names, tonumber(ARGV[1]))
save_queues()
