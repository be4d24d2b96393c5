-- The same sources run on five runtimes: "max" knows the globals of them all.
std = "max"
max_line_length = 120
files["spec/*_spec.lua"] = { std = "max+busted" }

-- annotations: signatures without bodies
files["types"] = { ignore = { "212", "241" } }
