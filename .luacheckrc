-- The same sources run on five runtimes: "max" knows the globals of them all.
std = "max"
max_line_length = 120
files["spec/*_spec.lua"] = { std = "max+busted" }

-- annotations: signatures without bodies
files["types"] = { ignore = { "212", "241" } }

-- what runs inside nginx; the programs run on all runtimes
files["lua"] = { std = "ngx_lua", read_globals = { ngx = { fields = { run_worker_thread = {} } } } }
for _, name in ipairs { "growth_hooks", "parts", "resty_hook" } do
  files["bench/gateway/" .. name .. ".lua"] = { std = "ngx_lua" }
end
files["lua/icptoken/cli.lua"] = { std = "max" }
files["lua/icptoken/cli"] = { std = "max" }
files["lua/icptoken/command"] = { std = "max" }
