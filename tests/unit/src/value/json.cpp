#include "src/value/value.h"
#include "tests/unit/test.h"

namespace vmm {

TEST(json_round_trip_keeps_types_and_order) {
  const char* text = R"({"z": 1, "a": [true, false, null, -5, 18446744073709551615, 1.5, "q\"\\\n\u00e9"], "o": {}, "l": []})";
  const Value v = OK(parse_json(text));
  CHECK_EQ(to_json(v),
           "{\"z\": 1, \"a\": [true, false, null, -5, 18446744073709551615, 1.5, \"q\\\"\\\\\\n\u00e9\"], \"o\": {}, \"l\": []}");
  CHECK(OK(parse_json(to_json(v))) == v);
  CHECK(OK(parse_json(to_json(v, true))) == v);
  CHECK_EQ(to_json(OK(parse_json("1.0"))), "1.0");
  CHECK_EQ(to_json(OK(parse_json(R"('it\'s "quoted"')"))), R"("it's \"quoted\"")");
  CHECK_EQ(OK(parse_json(R"("\ud83d\ude00")")).get_string(), "\U0001f600");
}

TEST(json_refuses_what_is_not_json_and_names_the_byte) {
  const char* bad[] = {"",
                       " ",
                       "{",
                       "}",
                       "[1,]",
                       "{\"a\":1,}",
                       "{a:1}",
                       "[1 2]",
                       "01",
                       "-",
                       "1.",
                       "1e",
                       "tru",
                       "truex",
                       "\"\\x\"",
                       "\"\\u12\"",
                       "\"\\ud800\"",
                       "\"\\udc00\"",
                       "\"\\u0000\"",
                       "\"\n\"",
                       "\"\xff\"",
                       "\"\xc0\x80\"",
                       "\"\xed\xa0\x80\"",
                       "\"a",
                       "1 2",
                       "nan",
                       "1e999",
                       "18446744073709551616",
                       "-9223372036854775809",
                       "{\"a\":1,\"a\":2}",
                       "{\"a\" 1}",
                       "'a\""};
  for (const char* text : bad) {
    const auto v = parse_json(text);
    if (v) test::failed(text, __FILE__, __LINE__);
    CHECK(v.error().message.contains("byte"));
  }
  CHECK_EQ(parse_json("[1, x]").error().message, "JSON parse error at byte 4: expected a value");
}

TEST(json_limits_hold) {
  CHECK(parse_json(std::string(1024, '[') + std::string(1024, ']')));
  CHECK(!parse_json(std::string(1025, '[') + std::string(1025, ']')));
  CHECK(!parse_json("\"" + std::string(100, 'a') + "\"", {.string_bytes = 50}));
  CHECK(!parse_json("\"" + std::string(100, 'a') + "\"", {.message_bytes = 50}));
  std::string many = "{";
  for (int i = 0; i < 100'000; i++) many += format("\"k{}\":0,", i);
  CHECK(parse_json(many + "\"z\":0}"));
  CHECK(!parse_json(many + "\"k5\":0}"));  // twice; found without a quadratic walk
}

static std::vector<std::string> cut(std::string_view bytes, usize piece, JsonLimits limits = {}) {
  std::vector<std::string> out;
  JsonStream stream{limits};
  for (usize i = 0; i < bytes.size(); i += piece)
    stream.feed(bytes.substr(i, piece), [&](Result<Value> v) { out.push_back(v ? to_json(*v) : "error"); });
  stream.finish([&](Result<Value> v) { out.push_back(v ? to_json(*v) : "error"); });
  return out;
}

TEST(json_stream_cuts_at_values_however_bytes_arrive) {
  const std::string_view text = "{\"a\":\"}\\\"]\"}[1,\n2]  7 \"x\"true{'b':'\"'}\r\n12";
  const std::vector<std::string> want{R"({"a": "}\"]"})", "[1, 2]", "7", "\"x\"", "true", R"({"b": "\""})", "12"};
  for (usize piece = 1; piece < text.size(); piece++) CHECK(cut(text, piece) == want);
}

TEST(json_stream_goes_on_after_errors) {
  CHECK(cut("} 5", 1) == (std::vector<std::string>{"error", "5"}));
  CHECK(cut("{\"a\": nope} 5", 1) == (std::vector<std::string>{"error", "5"}));
  CHECK(cut("{\"open\n{\"a\":1}", 1) == (std::vector<std::string>{"error", "{\"a\": 1}"}));
  CHECK(cut("{\"a\":[\xff{\"a\":1}", 1) == (std::vector<std::string>{"error", "{\"a\": 1}"}));
  CHECK(cut("[[[[1]]]] 5", 1, {.depth = 3}) == (std::vector<std::string>{"error", "5"}));
  CHECK(cut("[[[[1\n 5", 1, {.depth = 3}) == (std::vector<std::string>{"error", "5"}));
  CHECK(cut("[\"" + std::string(100, 'a') + "]\"] 5", 7, {.string_bytes = 20}) == (std::vector<std::string>{"error", "5"}));
  CHECK_EQ(cut(std::string(100'000, '['), 1000).size(), 1u);
}

// Damaged messages: no crash, and what is printed can be read back.
TEST(json_survives_damage) {
  u64 seed = 42;
  const auto random = [&] { return seed = seed * 6364136223846793005 + 1442695040888963407, static_cast<u32>(seed >> 33); };
  const std::string_view base =
      R"({"execute": "qom-set", "arguments": {"path": "/m", "v": [1, -2.5e3, "\u00e9\ud83d\ude00", null, {"a": {}}]}, "id": "x"})";
  const std::string_view spice = "{}[]\",:\\'0-.eE+tfn \n\xff\xc3\x80u";
  for (u32 i = 0; i < test::rounds(20'000); i++) {
    std::string text{base};
    for (u32 n = random() % 6; n; n--) {
      const usize at = random() % text.size();
      switch (random() % 3) {
        case 0: text[at] = spice[random() % spice.size()]; break;
        case 1: text.erase(at, 1 + random() % 8); break;
        case 2: text.insert(at, 1, spice[random() % spice.size()]); break;
      }
      if (text.empty()) text = " ";
    }
    if (const auto v = parse_json(text)) CHECK(OK(parse_json(to_json(*v))) == *v);
    cut(text, 1 + random() % 9);
  }
}

}  // namespace vmm
