-- docker with both of its image stores, buildx, and containerd's ctr through the gateway to a real registry. Needs
-- root; #deep, as these programs are not what a contributor has.

local clients = require "support.clients"

setfenv(assert(loadfile "spec/support/client_cases.lua"), getfenv(1))(clients.DAEMONS)
