// query-memdev, info memdev, info ramblock.
#include "src/control/command.h"
#include "src/vm/memory_backend.h"

namespace vmm {

namespace {
struct MemdevInfo {
  std::optional<std::string> id;
  u64 size = 0;
  bool merge = true, dump = true, prealloc = false, share = false;
  std::optional<bool> reserve;
  std::vector<u16> host_nodes;
  vm::HostMemoryPolicy policy = vm::HostMemoryPolicy::default_;
};
}  // namespace

template <>
inline constexpr std::array fields<MemdevInfo> = {
    field<&MemdevInfo::id>("id", "Its id."),
    field<&MemdevInfo::size>("size", "In bytes."),
    field<&MemdevInfo::merge>("merge", "The host may merge equal pages."),
    field<&MemdevInfo::dump>("dump", "It is part of core dumps."),
    field<&MemdevInfo::prealloc>("prealloc", "It was allocated at once."),
    field<&MemdevInfo::share>("share", "Other processes may share it."),
    field<&MemdevInfo::reserve>("reserve", "Swap or huge pages are reserved for it."),
    field<&MemdevInfo::host_nodes>("host-nodes", "NUMA nodes of the host that it is bound to."),
    field<&MemdevInfo::policy>("policy", "How it is bound to them."),
};

namespace {

Result<std::vector<MemdevInfo>> query_memdev(control::Context& context) {
  std::vector<MemdevInfo> list;
  Object* folder = context.root().child("objects");
  if (!folder) return list;
  for (const auto& child : folder->children()) {
    const auto* backend = object_cast<vm::MemoryBackend>(child.get());
    if (!backend) continue;
    const auto flag = [&](std::string_view name) {
      auto v = backend->get(name);
      return v && v->is_bool() && v->get_bool();
    };
    MemdevInfo info{.id = backend->name(),
                    .size = backend->size_bytes(),
                    .merge = flag("merge"),
                    .dump = flag("dump"),
                    .prealloc = flag("prealloc"),
                    .share = flag("share"),
                    .reserve = flag("reserve"),
                    .host_nodes = backend->host_nodes()};
    if (auto v = backend->get("policy")) TRY(Codec<vm::HostMemoryPolicy>::from_value(info.policy, *v, "policy", {}));
    list.push_back(std::move(info));
  }
  return list;
}

std::string print_memdev(const Value& answer) {
  std::string text;
  for (const Value& v : answer.items()) {
    text += format("memory backend: {}\n", v.find("id")->get_string());
    const auto number = v.find("size")->as_u64("size");
    text += format("  size:  {}\n", number ? *number : 0);
    for (const char* name : {"merge", "dump", "prealloc", "share", "reserve"}) text += format("  {}: {}\n", name, v.find(name)->get_bool());
    text += format("  policy: {}\n  host nodes: ", v.find("policy")->get_string());
    std::string nodes;
    for (const Value& node : v.find("host-nodes")->items())
      if (const auto n = node.as_u64("node")) nodes += format("{}{}", nodes.empty() ? "" : ",", *n);
    text += nodes + "\n";
  }
  return text + "\n";
}

Result<std::string> info_ramblock(control::Context&, std::span<const std::string>) {
  MachineLockedIfNot lock;
  machine_lock.assert_held();
  std::string text =
      format("{:>24} {:>8}  {:>18} {:>18} {:>18} {:>18} {:>3}\n", "Block Name", "PSize", "Offset", "Used", "Total", "HVA", "RO");
  for (const memory::RamBlock* block : memory::ram_blocks()) {
    const u64 page = block->host_page_bytes(), used = block->size_bytes();
    text += format("{:>24} {:>8}  {:#018x} {:#018x} {:#018x} {:#018x} {:>3}\n", block->name(),
                   page >= MiB ? format("{} MiB", page / MiB) : format("{} KiB", page / KiB), u64{block->first_page()} * memory::page_bytes,
                   used, used, reinterpret_cast<u64>(block->host()), block->read_only() ? "ro" : "rw");
  }
  return text;
}

const control::Registered commands[] = {
    control::Registered{control::command<query_memdev>({.name = "query-memdev",
                                                        .doc = "Memory back ends.",
                                                        .since = "2.1",
                                                        .human = "info memdev",
                                                        .human_help = "info memdev -- show memory backends",
                                                        .human_print = print_memdev})},
    control::Registered{
        control::human<info_ramblock>({.human = "info ramblock", .human_help = "info ramblock -- display system ramblock information"})},
};

}  // namespace
}  // namespace vmm
