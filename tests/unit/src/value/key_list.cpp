#include "src/value/key_list.h"

#include "tests/unit/test.h"

namespace vmm {

static std::string read(const char* text, const char* implied = "type", bool dotted = true) {
  const auto v = parse_key_list_or_json(text, implied, dotted);
  return v ? to_json(*v) : "error: " + v.error().message;
}

TEST(key_lists_are_read_as_the_contract_says) {
  CHECK_EQ(read("pc,accel=tcg"), R"({"type": "pc", "accel": "tcg"})");
  CHECK_EQ(read("type=pc"), R"({"type": "pc"})");
  CHECK_EQ(read("file,path=/a,,b,,,,c,id=x"), R"({"type": "file", "path": "/a,b,,c", "id": "x"})");
  CHECK_EQ(read("socket,server,nowait"), R"({"type": "socket", "server": "on", "wait": "off"})");
  CHECK_EQ(read("a=1,a=2"), R"({"a": "2"})");
  CHECK_EQ(read("a=,b=x=y"), R"({"a": "", "b": "x=y"})");
  CHECK_EQ(read(""), "{}");
  CHECK_EQ(read("pc,"), R"({"type": "pc"})");
  CHECK_EQ(read(R"({"driver": "e1000", "n": 5})"), R"({"driver": "e1000", "n": 5})");
  CHECK_EQ(read("file.driver=nbd,file.server.host=h"), R"({"file": {"driver": "nbd", "server": {"host": "h"}}})");
  CHECK_EQ(read("a.1=y,a.0=x"), R"({"a": ["x", "y"]})");
  CHECK_EQ(read("a.b=1", "", false), R"({"a.b": "1"})");
  CHECK(OK(parse_key_list("e1000,help", "driver")).help);
  CHECK(OK(parse_key_list("?", "driver")).help);
}

TEST(bad_key_lists_are_refused) {
  CHECK_EQ(read("=x"), "error: Invalid parameter ''");
  CHECK_EQ(read("pc,,x"), R"({"type": "pc,x"})");
  CHECK_EQ(read("pc,a b"), "error: Expected 'key=value' instead of 'a b'");
  CHECK_EQ(read("a=1,a.b=2"), "error: Parameters 'a.*' used inconsistently");
  CHECK_EQ(read("a.b=2,a=1"), "error: Parameters 'a.*' used inconsistently");
  CHECK_EQ(read("a.0=1,a.2=2"), "error: Parameter 'a.1' is missing");
  CHECK_EQ(read("a.0=1,a.x=2"), "error: Parameters 'a.*' used inconsistently");
  CHECK_EQ(read("a..b=1"), "error: Invalid parameter 'a..b'");
  CHECK(read("{\"a\":").starts_with("error: JSON parse error"));
}

TEST(key_lists_print_back) {
  const char* text = "type=file,path=/a,,b,id=x";
  CHECK_EQ(print_key_list(OK(parse_key_list(text, "type"))), text);
}

}  // namespace vmm
