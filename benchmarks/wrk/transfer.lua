-- One keyed transfer a request, for wrk: many users at random, there and back again, so that nobody's money runs out.
--
--   python benchmarks/wrk/credit.py http://127.0.0.1:8080
--   wrk -t2 -c32 -d10s --latency -s benchmarks/wrk/transfer.lua http://127.0.0.1:8081
--
-- By environment, the same for both: USERS (1000), FIRST_USER (1), ASSET_ID (1), TOKEN (none; one that may move any
-- user's money). Here alone: AMOUNT (1000000), SEED (1), API_PATH (what comes before /api/v1), DETAILS (1: also print
-- every latency in µs with its number, for `bench http`). The first answers that are no committed transfers are shown.

local users = tonumber(os.getenv("USERS") or "1000")
local first_user = tonumber(os.getenv("FIRST_USER") or "1")
local seed = tonumber(os.getenv("SEED") or "1")
local asset_id = os.getenv("ASSET_ID") or "1"
local amount = os.getenv("AMOUNT") or "1000000"
local path = (os.getenv("API_PATH") or "") .. "/api/v1/transfer"
local token = os.getenv("TOKEN")
local details = os.getenv("DETAILS")
local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init()
  -- Keys are unique: the second and a fresh table's address tell runs apart.
  run = string.format("%d-%s-%d", os.time(), tostring({}):sub(8), number)
  math.randomseed(seed + number)
  count = 0
  committed = 0
  others = {}
  shown = 0
  back = {}
  headers = { ["Content-Type"] = "application/json" }
  if token then
    headers["Authorization"] = "Bearer " .. token
  end
  rest = ',"asset_id":' .. asset_id .. ',"amount":' .. amount .. '}'
end

function request()
  count = count + 1
  headers["Idempotency-Key"] = run .. "-" .. count
  local user = first_user + math.random(0, users - 1)
  local accounts = back[user] and '{"from":"trading","to":"funding","user_id":' or '{"from":"funding","to":"trading","user_id":'
  back[user] = not back[user]
  return wrk.format("POST", path, headers, accounts .. string.format("%.0f", user) .. rest)
end

-- What became of a transfer, by the names that the suite has for it.
local function outcome(status, body)
  local code, told = body:match('"code":"?([%w_]+)'), body:match('"status":"(%w+)"')
  if status < 300 and not code then
    return told == "pending" and "pending" or (told == "failed" or told == "rolled_back") and "failed" or "fault: unreadable"
  elseif code and (told == "failed" or (status >= 400 and status < 500 and told ~= "pending")) then
    return "refused: " .. code
  end
  return "fault: HTTP " .. status
end

function response(status, _, body)
  if status == 200 and body:find('"status":"committed"', 1, true) then
    committed = committed + 1
    return
  end
  local name = outcome(status, body)
  others[name] = (others[name] or 0) + 1
  if shown < 3 then
    shown = shown + 1
    io.stderr:write(string.format("%d %s\n", status, body))
  end
end

function done(summary, latency, _)
  local committed, asked, others = 0, 0, {}
  for _, thread in ipairs(threads) do
    committed = committed + thread:get("committed")
    for name, number in pairs(thread:get("others")) do
      others[name] = (others[name] or 0) + number
      asked = asked + number
    end
  end
  io.write(string.format(
    "transfers: %.0f/s committed, %d answers were others, p50 %.2f ms, p99 %.2f ms\n",
    committed / summary.duration * 1e6, asked, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
  if not details then
    return
  end
  local errors = summary.errors
  io.write(string.format("seconds: %.6f\n", summary.duration / 1e6))
  io.write(string.format("outcome: %d committed\n", committed))
  for name, number in pairs(others) do
    io.write(string.format("outcome: %d %s\n", number, name))
  end
  io.write(string.format("outcome: %d fault: unreachable\n", errors.connect))
  io.write(string.format("outcome: %d fault: cut\n", errors.read + errors.write))
  for index = 1, #latency do
    local us, number = latency(index)
    io.write(string.format("latency: %d %d\n", us, number))
  end
end
