#include "block/format/backing.h"

namespace vmm::block {

std::string resolve_name(const std::string& of, const std::string& name) {
  if (name.empty() || name.starts_with('/') || name.starts_with("json:")) return name;
  const auto colon = name.find(':');
  const bool has_protocol = colon != name.npos && name.find('/') > colon;
  if (has_protocol) return name;
  std::string base = of;
  // "json:" names and protocols with paths: the directory is what stands before the last slash.
  const auto slash = base.rfind('/');
  if (base.starts_with("json:") || slash == base.npos) return name;
  return base.substr(0, slash + 1) + name;
}

Task<Value> tree_for_named_file(EventLoop& loop, std::string filename, std::string format) {
  Result<Value> named = options_of_filename(filename);
  if (!named) co_return std::unexpected(std::move(named).error());
  Value tree = std::move(*named);
  const Value* driver_name = tree.find("driver");
  const BlockDriver* driver = driver_name && driver_name->is_string() ? find_driver(driver_name->get_string()) : nullptr;
  if (driver && driver->kind != BlockDriver::Kind::protocol) co_return std::move(tree);
  if (format.empty()) {
    Value probing = tree;
    probing.set("read-only", true);
    NodeRef file = co_await open_node(loop, std::move(probing));
    Result<> looked;
    {
      auto edge = Edge::make(file, "probe", "the format probe", Role::user, permit_read, permit_all);
      if (edge) {
        std::vector<u8> head(std::min<u64>(4096, (*edge)->length_bytes()));
        looked = co_await attempt((*edge)->read(0, IoVector{std::span{head}}));
        int best = 0;
        format = "raw";
        for (const BlockDriver* d : all_drivers())
          if (const int score = d->probe ? d->probe(head, filename) : 0; score > best) best = score, format = d->name;
      } else {
        looked = std::unexpected(std::move(edge).error());
      }
    }
    (void)co_await attempt(release(std::move(file)));
    if (!looked) co_return std::unexpected(looked.error());
  }
  if (!find_driver(format)) co_return fail("Unknown driver '{}'", format);
  Value image = Value::object();
  image.set("driver", Value{format});
  image.set("file", std::move(tree));
  co_return std::move(image);
}

}  // namespace vmm::block
