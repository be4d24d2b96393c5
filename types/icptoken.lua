---@meta icptoken
-- Annotations for editors (Lua language server). Nothing here is run.

---@alias icptoken.Code
---| "invalid_credential" # the credential cannot be used; nothing was sent
---| "resolve"            # the host's name is not known
---| "connect"            # no connection, or no file descriptor left for one
---| "proxy"              # the proxy cannot be reached, refuses, or does not speak HTTP
---| "tls"                # the certificate does not verify, or the TLS handshake failed
---| "timeout"            # a time limit was exceeded
---| "network"            # the connection was reset, or the answer was truncated
---| "redirect"           # the endpoint redirects elsewhere; redirects are never followed
---| "unauthorized"       # 401
---| "forbidden"          # 403
---| "not_found"          # 404
---| "rate_limited"       # 429
---| "server_error"       # 5xx
---| "http_status"        # any other status
---| "too_large"          # more than max_body_bytes, or 64 KiB of headers
---| "invalid_response"   # the answer is not JSON with a token
---| "expired"            # the token had already expired
---| "no_memory"          # out of memory
---| "closed"             # the client was closed

---An error as the endpoint reported it.
---@class icptoken.ServerError
---@field code? string
---@field message? string

---@class icptoken.Details
---@field retryable boolean retrying later may succeed
---@field attempts integer attempts that were made
---@field status? integer the HTTP status
---@field errors? icptoken.ServerError[]
---@field retry_after? number seconds, from the Retry-After header
---@field curl_code? integer a CURLcode
---@field url? string without query

---The members of the server's answer, and the times that the module adds.
---@class icptoken.Token
---@field token string the registry JWT
---@field expires_in integer seconds
---@field issued_at? string RFC 3339, as sent
---@field received_at integer epoch seconds
---@field expires_at integer epoch seconds
---@field refresh_at integer epoch seconds
---@field refresh_token? string with offline_token

---@class icptoken.Jwt
---@field header table
---@field claims table not verified
---@field signature string base64url

---The fields of a single request; the client's options supply all others.
---@class icptoken.Request
---@field service? string
---@field scope? string|string[] a string is split at spaces
---@field account? string
---@field client_id? string
---@field offline_token? boolean
---@field realm? string of a challenge; not used
---@field error? string of a challenge; not used

---A request of client:fetch accepts more fields.
---@class icptoken.FetchRequest: icptoken.Request
---@field id_token? string
---@field username? string
---@field password? string
---@field timeout? number seconds
---@field retries? integer
---@field hedge_after? number seconds
---@field headers? table<string, string> in addition to the client's

---@class icptoken.Options
---@field host? string name or IP number of the master
---@field port? integer 8443
---@field path? string
---@field url? string instead of host, port and path
---@field allow_http? boolean
---@field id_token? string|fun(): string?, string? a function returns the ID token, or nil and a message
---@field id_token_file? string read for every call on the client; may be a pipe
---@field username? string
---@field password? string
---@field login? { username: string, password: string } the client logs in by itself
---@field anonymous? boolean
---@field service? string
---@field scope? string|string[]
---@field account? string
---@field client_id? string
---@field offline_token? boolean
---@field cacert? string file or pipe
---@field capath? string directory
---@field insecure? boolean
---@field cert? string file or pipe
---@field key? string file or pipe
---@field key_password? string
---@field pinned_public_key? string "sha256//…", a file or a pipe
---@field tls_min? "1.2"|"1.3"
---@field certificates? boolean keep those that the server sends, for client:stats
---@field timeout? number seconds, 30
---@field connect_timeout? number seconds, 10
---@field retries? integer 2
---@field hedge_after? number seconds until a second attempt starts beside one that hangs; off
---@field proxy? string
---@field no_proxy? string
---@field resolve? table<string, string|string[]> "host:port" to IP number
---@field http_version? "1.1"|"2"
---@field headers? table<string, string>
---@field user_agent? string
---@field max_body_bytes? integer 1 MiB
---@field parallel? integer of fetch_all, 16
---@field cache_size? integer tokens that client:token keeps at most, 1024

---@class icptoken.Login
---@field host? string name or IP number of the master
---@field port? integer 8443
---@field path? string
---@field url? string instead of host, port and path
---@field allow_http? boolean
---@field username? string
---@field password? string
---@field cacert? string file or pipe
---@field capath? string directory
---@field insecure? boolean
---@field cert? string file or pipe
---@field key? string file or pipe
---@field key_password? string
---@field pinned_public_key? string
---@field tls_min? "1.2"|"1.3"
---@field certificates? boolean keep those that the server sends, for client:stats
---@field timeout? number seconds, 30
---@field connect_timeout? number seconds, 10
---@field retries? integer 2
---@field proxy? string
---@field no_proxy? string
---@field resolve? table<string, string|string[]>
---@field http_version? "1.1"|"2"
---@field headers? table<string, string>
---@field user_agent? string
---@field max_body_bytes? integer 1 MiB

---The identity provider's answer.
---@class icptoken.Identity
---@field id_token string
---@field access_token? string
---@field refresh_token? string
---@field token_type? string
---@field scope? string
---@field expires_in? integer seconds
---@field received_at? integer epoch seconds
---@field expires_at? integer epoch seconds

---@class icptoken.Challenge
---@field realm? string
---@field service? string
---@field scope? string
---@field error? string

---Why one request of fetch_all failed.
---@class icptoken.Failure: icptoken.Details
---@field message string
---@field code icptoken.Code

---@class icptoken.Timings
---@field namelookup number seconds since the start of the transfer, as all that follow
---@field connect number
---@field appconnect number
---@field pretransfer number
---@field starttransfer number
---@field total number
---@field connections integer new connections; 0 when an existing one was reused

---@class icptoken.Stats
---@field requests integer token requests
---@field attempts integer attempts, including retries and logins
---@field cache_hits integer tokens that client:token returned from the cache
---@field refreshes integer attempts to renew a token ahead of its expiry
---@field stale integer old tokens that client:token returned because renewal failed
---@field evictions integer valid tokens dropped because the cache was full
---@field failures table<icptoken.Code, integer>
---@field timings icptoken.Timings of the last transfer
---@field certificates? string in PEM, with the option certificates, if the last transfer opened a connection

---@class icptoken.Client
local client = {}

---Requests a new token from the endpoint.
---@param request? icptoken.FetchRequest
---@return icptoken.Token? token
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function client:fetch(request) end

---Returns a valid token, from the cache if possible; renews it ahead of its expiry. Do not modify the table.
---@param request? icptoken.Request
---@return icptoken.Token? token
---@return string? message nil with a token
---@return icptoken.Code|"fresh"|"cached"|"stale"? code with a token, its source
---@return icptoken.Details? details
function client:token(request) end

---Requests many tokens at once, at most `parallel` of them concurrently. They are not cached.
---@param requests icptoken.Request[]
---@return (icptoken.Token|false)[]? tokens false where a request failed
---@return table<integer, icptoken.Failure>|string? errors nil when none failed
---@return icptoken.Code? code
---@return icptoken.Details? details
function client:fetch_all(requests) end

---Forgets the cached entry that holds exactly this token.
---@param token string
---@return boolean? found
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function client:invalidate(token) end

---Returns counters, and the timings of the last transfer.
---@return icptoken.Stats? stats
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function client:stats() end

---Closes all connections and frees all memory. May be called again.
function client:close() end

---@class icptoken
---@field _NAME "icptoken"
---@field _VERSION string
local icptoken = {}

---Creates a client. Raises on an invalid option.
---@param options icptoken.Options
---@return icptoken.Client? client
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.new(options) end

---Requests one token without keeping a client.
---@param options icptoken.Options
---@return icptoken.Token? token
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.fetch(options) end

---Logs in at the identity provider.
---@param options icptoken.Login
---@return icptoken.Identity? identity
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.login(options) end

---Parses the Bearer challenge in a WWW-Authenticate value. client:token and client:fetch accept the result as request.
---@param value string
---@return icptoken.Challenge? challenge
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.challenge(value) end

---Decodes the parts of a JWT. Nothing is verified.
---@param jwt string
---@return icptoken.Jwt? decoded
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.decode(jwt) end

---Options of a gateway: these, and those of icptoken.Options for the endpoint, TLS and the network.
---@class icptoken.GatewayOptions: icptoken.Options
---@field service? string
---@field account? string
---@field client_id? string
---@field offline_token? boolean
---@field timeout? number seconds that a request waits for its token, 10
---@field max_inflight? integer concurrent token requests per worker, 8
---@field max_queue? integer keys that may wait per worker, 1000
---@field max_passwords? integer|false different passwords of one user that a client may try in 15 minutes, 4
---@field hedge_after? number|false seconds until a second attempt starts beside one that hangs; learned by default
---@field client_address? string|fun(): string an nginx variable that distinguishes clients; "binary_remote_addr"
---@field error_ttl? number seconds for which a refusal is remembered, 5
---@field challenge? "basic"|"bearer"
---@field realm? string of the challenge; with "bearer" a URL
---@field token_user? string a Basic user name whose password is an ID token
---@field delete_actions? string "delete,*"
---@field credential? fun(): icptoken.GatewayCredential? instead of the Authorization header
---@field scope? fun(): (string[]|string)? instead of the scope that follows from method and path
---@field name? string label of the metrics
---@field request_id_header? string header of token requests with the id of the request that caused them
---@field dict? string name of the lua_shared_dict, "icptoken"
---@field thread_pool? string name of the thread_pool, "icptoken"
---@field fleet? icptoken.FleetOptions the Redis through which several gateways share tokens

---Where a gateway finds the Redis that it shares with others.
---@class icptoken.FleetOptions
---@field redis string URL: redis://, rediss:// (TLS) or unix://
---@field secret_file string file with 32 random bytes in base64, the same on all machines
---@field password_file? string file with the password of Redis
---@field server_name? string the name in the server's certificate, if not the host of the URL
---@field timeout? number seconds for a command, 0.1
---@field connect_timeout? number seconds for a connection, 0.05
---@field sentinels? string[] addresses of Sentinels, instead of a host in the URL
---@field master? string the name that the Sentinels have for the master
---@field sentinel_password_file? string file with the password of the Sentinels

---An ID token, or user name and password.
---@class icptoken.GatewayCredential
---@field id_token? string
---@field username? string
---@field password? string

---@class icptoken.GatewayRequest: icptoken.GatewayCredential
---@field scope? string|string[]
---@field service? string
---@field account? string
---@field client_id? string
---@field offline_token? boolean

---@alias icptoken.GatewayCode icptoken.Code
---| "no_credential"      # the request contains none
---| "name_invalid"       # the path is no endpoint of the registry API
---| "method_not_allowed" # the method is none of the registry API
---| "too_many_passwords" # a client has tried max_passwords for this user
---| "queue_full"         # more than max_queue keys are waiting
---| "overloaded"         # too many requests are waiting to be served in time
---| "client_gone"        # the client has closed the connection
---| "not_started"        # start() was not called, or the thread pool is missing
---| "internal"           # an internal error of the gateway, or an error in a function among its options

---The result of require "icptoken.gateway", which works in nginx only.
---@class icptoken.GatewayModule
local gateway_module = {}

---For init_by_lua. Raises on an invalid option.
---@param options icptoken.GatewayOptions
---@return icptoken.Gateway
function gateway_module.new(options) end

---@class icptoken.Gateway
local gateway = {}

---For init_worker_by_lua: starts the gateway in a worker.
function gateway:start() end

---For access_by_lua: sets $icptoken_authorization, or answers the request.
function gateway:authorize() end

---For header_filter_by_lua: replaces the challenge of a 401 and drops refused tokens.
function gateway:observe() end

---For body_filter_by_lua: writes the body of an answer that observe() has turned into a denial.
function gateway:filter() end

---For set_by_lua: the key of limit_req_zone and limit_conn_zone; "" for a credential that had a token recently.
---@return string
function gateway:limit_key() end

---Returns a token without an effect on the current request.
---@param request icptoken.GatewayRequest
---@return string? jwt
---@return "cached"|"stale"|"fresh"|string source the source, or the message of an error
---@return icptoken.GatewayCode? code
---@return { retry_after?: number }? details
function gateway:token(request) end

---For content_by_lua: the token service of challenge = "bearer".
function gateway:login() end

---Returns the metrics in Prometheus's text format.
---@param ... icptoken.Gateway further gateways to include
---@return string
function gateway:metrics(...) end

---For content_by_lua: answers 200 if the gateway can serve requests, else 503 and a reason.
function gateway:ready() end

---For content_by_lua: answers 200 if a worker runs.
function gateway:live() end

---For content_by_lua: answers a scrape, with OpenMetrics or Prometheus's text format, as its Accept asks for.
---@param ... icptoken.Gateway further gateways to include
function gateway:scrape(...) end

---For content_by_lua: answers with a page that shows the gateway's state, or with JSON, as Accept asks for.
function gateway:status() end

return icptoken
