// `-netdev KIND,id=ID,key=value…` as text. Keys that users repeat (hostfwd=…,hostfwd=…) become lists; dots make trees (addr.type=inet).
#include <algorithm>

#include "net/net.h"
#include "src/value/key_list.h"

namespace vmm::net {

Result<Value> parse_netdev_options(std::string_view text, bool* help) {
  if (text.starts_with('{')) return parse_json(text);
  KeyList list = TRY(parse_key_list(text, "type"));
  if (help) *help = list.help;
  static constexpr std::string_view repeated[] = {"hostfwd", "guestfwd", "dnssearch"};
  std::vector<std::pair<std::string_view, Value>> lists;
  for (const std::string_view key : repeated) {
    Value values = Value::list();
    for (const KeyListEntry& e : list.entries)
      if (e.key == key) values.append(Value{e.value});
    std::erase_if(list.entries, [&](const KeyListEntry& e) { return e.key == key; });
    if (!values.items().empty()) lists.emplace_back(key, std::move(values));
  }
  Value options = TRY(key_list_value(list, true));
  for (auto& [key, values] : lists) options.set(std::string{key}, std::move(values));
  return options;
}

}  // namespace vmm::net
