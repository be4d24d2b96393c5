-- Lines of icptoken in nginx's error log, without the name of a Lua file and function, which ngx.log adds.

local raw_log = require "ngx.errlog".raw_log

local log = {}

--- Writes a line. level: ngx.ERR and the like. The message must not contain a credential, a token or a repository.
function log.write(level, message)
  raw_log(level, "icptoken: " .. message)
end

return log
