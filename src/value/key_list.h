// Key lists as users write them: "first,key=value,…". Source: contract.md §1.1. A first word without `=` gets the implied key, `,,` in a
// value is one comma, a word without `=` is a boolean (`key`, `nokey`), `help` or `?` asks for help, a later duplicate wins.
#pragma once

#include "src/value/value.h"

namespace vmm {

struct KeyListEntry {
  std::string key, value;
  bool short_boolean = false;  // written as `key` or `nokey`
};
struct KeyList {
  std::vector<KeyListEntry> entries;  // in order; duplicates are kept, the last one counts
  bool help = false;

  const std::string* find(std::string_view key) const;
  void set(std::string key, std::string value);  // replaces all of that key
};

// `implied` may be empty: then a first word without `=` is a boolean as well.
Result<KeyList> parse_key_list(std::string_view text, std::string_view implied);
// Back to text that parse_key_list reads the same.
std::string print_key_list(const KeyList& list);

// Members are strings; short booleans "on"/"off". `dotted`: "a.b=1,l.0=x" makes {"a": {"b": "1"}, "l": ["x"]}.
Result<Value> key_list_value(const KeyList& list, bool dotted);
// A key list, or a JSON object if the text starts with `{`.
Result<Value> parse_key_list_or_json(std::string_view text, std::string_view implied, bool dotted, bool* help = nullptr);

}  // namespace vmm
