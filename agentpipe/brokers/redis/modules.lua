-- Shared by all scripts.

-- A module that most calls do without: its functions are made when the first of them is needed. The server
-- makes all functions of a script anew for each call, which takes it as long as its commands do.
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
