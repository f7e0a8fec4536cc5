-- Shared by all scripts: lazy modules.

-- A module that most calls do not need: its functions are created on first use. The server creates
-- all functions of a script again for each call, which takes as long as the script's commands.
local unmade = {__index = function(module, name)
  setmetatable(module, nil)
  for key, value in pairs(module.make()) do
    module[key] = value
  end
  return module[name]
end}

local function on_demand(make)
  return setmetatable({make = make}, unmade)
end
