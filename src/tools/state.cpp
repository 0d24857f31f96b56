// vmm state show FILE: what a stream of a machine's state (migrate to file:…) says, for people and for scripts.
#include <cstdio>

#include "migration/channel.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/tools/tool.h"
#include "src/value/cbor.h"

namespace vmm::tools {

namespace {

constexpr std::string_view usage =
    "usage: vmm state show FILE\n"
    "Prints the machine, its RAM and the state of each device in a stream that 'migrate file:FILE' has written, as one JSON object.\n";

// Bytes are shown as text of two digits each: JSON has none.
Value printable(const Value& v) {
  if (v.is_bytes()) {
    std::string text;
    for (const u8 b : v.bytes()) text += format("{:02x}", b);
    return Value{std::move(text)};
  }
  if (v.is_list()) {
    Value list = Value::list();
    for (const Value& e : v.items()) list.append(printable(e));
    return list;
  }
  if (v.is_object()) {
    Value::Members members;
    for (const auto& [name, e] : v.members()) members.emplace_back(name, printable(e));
    return Value{std::move(members)};
  }
  return v;
}

// How many pages a part speaks of, and how many of them it has something for: so many bytes each.
struct PageCount {
  u64 all = 0, full = 0;
};
Result<PageCount> count_pages(std::span<const u8> payload, u64 bytes_a_page) {
  if (payload.size() < 16) return fail("pages without a head");
  const u32 count = load_le<u32>(&payload[4]);
  const u64 map = (u64{count} + 7) / 8;
  if (count > migration::pages_a_part || payload.size() < 16 + map) return fail("pages without their map");
  const u64 full = (payload.size() - 16 - map) / bytes_a_page;
  if (full > count) return fail("pages with more than is theirs");
  return PageCount{count, full};
}

Result<Value> read_stream(const std::string& path) {
  migration::Channel channel;
  TRY(channel.open("file:" + path));
  migration::Reader reader{channel};
  TRY(reader.head());
  Value out = Value::object();
  Value sections = Value::object();
  u64 pages = 0, zeros = 0;
  for (;;) {
    const auto part = TRY(reader.next());
    switch (part.kind) {
      case migration::Part::machine: {
        const Value machine = TRY(parse_cbor(part.payload));
        if (const Value* placed = machine.find("placed"))
          if (const Value* rest = placed->find("rest")) {
            if (!channel.has_places()) return fail("this is no file");
            TRY(channel.go_to(TRY(rest->as_u64("rest"))));
          }
        out.set("machine", printable(machine));
        break;
      }
      case migration::Part::pages:
      case migration::Part::placed: {
        const PageCount n = TRY(count_pages(part.payload, part.kind == migration::Part::pages ? 4096 : 4));
        pages += n.all, zeros += n.all - n.full;
        break;
      }
      case migration::Part::section: {
        const Value v = TRY(parse_cbor(part.payload));
        const Value *name = v.find("name"), *state = v.find("state");
        if (!name || !name->is_string() || !state) return fail("a section without a name");
        sections.set(name->get_string(), printable(*state));
        break;
      }
      case migration::Part::end:
        out.set("pages", Value::object().set("sent", pages).set("zero", zeros));
        return out.set("sections", std::move(sections));
      default: return fail("a part of the unknown kind {}", static_cast<u32>(part.kind));
    }
  }
}

int run(std::span<const char* const> words) {
  if (words.size() == 1 && (std::string_view{words[0]} == "--help" || std::string_view{words[0]} == "-h"))
    return std::fputs(std::string{usage}.c_str(), stdout), 0;
  if (words.size() != 2 || std::string_view{words[0]} != "show") return std::fputs(std::string{usage}.c_str(), stderr), 1;
  const auto stream = read_stream(words[1]);
  if (!stream) return report_error(format("{}: {}", words[1], stream.error().message)), 1;
  std::puts(to_json(*stream, true).c_str());
  return 0;
}

const RegisteredTool registered{{.name = "state", .program = "vmm-state", .doc = "What a stream of a machine's state says.", .run = run}};

}  // namespace
}  // namespace vmm::tools
