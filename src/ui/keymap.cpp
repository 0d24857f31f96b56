// Sources: keysymdef.h of X11 (names and numbers of keysyms); the national keyboard standards that the tables show (DIN 2137, AFNOR,
// BS 4822, JIS X 6002 …) as X's and Windows' layouts have them.
#include "src/ui/keymap.h"

#include <linux/input-event-codes.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

namespace vmm::ui {

// The characters of 48 keys, plain, with Shift, with AltGr; a blank: none. Rows: ` 1 … =, q … ], a … ' \, < z … /.
class Layout {
 public:
  std::string_view name;
  std::u32string_view plain, shift, alt_gr;
  bool japanese = false, brazilian = false;  // with keys beside the 48
};

namespace {

constexpr u16 keys[48] = {KEY_GRAVE, KEY_1,         KEY_2,          KEY_3,         KEY_4,     KEY_5, KEY_6, KEY_7, KEY_8, KEY_9, KEY_0,
                          KEY_MINUS, KEY_EQUAL,     KEY_Q,          KEY_W,         KEY_E,     KEY_R, KEY_T, KEY_Y, KEY_U, KEY_I, KEY_O,
                          KEY_P,     KEY_LEFTBRACE, KEY_RIGHTBRACE, KEY_A,         KEY_S,     KEY_D, KEY_F, KEY_G, KEY_H, KEY_J, KEY_K,
                          KEY_L,     KEY_SEMICOLON, KEY_APOSTROPHE, KEY_BACKSLASH, KEY_102ND, KEY_Z, KEY_X, KEY_C, KEY_V, KEY_B, KEY_N,
                          KEY_M,     KEY_COMMA,     KEY_DOT,        KEY_SLASH};

// clang-format off
constexpr Layout layouts[] = {
    {"en-us", U"`1234567890-=" U"qwertyuiop[]" U"asdfghjkl;'\\" U" zxcvbnm,./",
              U"~!@#$%^&*()_+" U"QWERTYUIOP{}" U"ASDFGHJKL:\"|" U" ZXCVBNM<>?", U""},
    {"en-gb", U"`1234567890-=" U"qwertyuiop[]" U"asdfghjkl;'#" U"\\zxcvbnm,./",
              U"¬!\"£$%^&*()_+" U"QWERTYUIOP{}" U"ASDFGHJKL:@~" U"|ZXCVBNM<>?",
              U"¦   €        " U"  é   úíó   " U"á           " U"           "},
    {"de", U"^1234567890ß´" U"qwertzuiopü+" U"asdfghjklöä#" U"<yxcvbnm,.-",
           U"°!\"§$%&/()=?`" U"QWERTZUIOPÜ*" U"ASDFGHJKLÖÄ'" U">YXCVBNM;:_",
           U"  ²³   {[]}\\ " U"@ €        ~" U"            " U"|      µ   "},
    {"de-ch", U"§1234567890'^" U"qwertzuiopü¨" U"asdfghjklöä$" U"<yxcvbnm,.-",
              U"°+\"*ç%&/()=?`" U"QWERTZUIOPè!" U"ASDFGHJKLéà£" U">YXCVBNM;:_",
              U" ¦@#  ¬|¢  ´~" U"  €       []" U"          {}" U"\\          "},
    {"fr", U"²&é\"'(-è_çà)=" U"azertyuiop^$" U"qsdfghjklmù*" U"<wxcvbn,;:!",
           U" 1234567890°+" U"AZERTYUIOP¨£" U"QSDFGHJKLM%µ" U">WXCVBN?./§",
           U"  ~#{[|`\\^@]}" U"  €        ¤" U"            " U"           "},
    {"fr-be", U"²&é\"'(§è!çà)-" U"azertyuiop^$" U"qsdfghjklmùµ" U"<wxcvbn,;:=",
              U"³1234567890°_" U"AZERTYUIOP¨*" U"QSDFGHJKLM%£" U">WXCVBN?./+",
              U" |@#  ^  {}  " U"  €       []" U"          ´`" U"\\         ~"},
    {"fr-ch", U"§1234567890'^" U"qwertzuiopè¨" U"asdfghjkléà$" U"<yxcvbnm,.-",
              U"°+\"*ç%&/()=?`" U"QWERTZUIOPü!" U"ASDFGHJKLöä£" U">YXCVBNM;:_",
              U" ¦@#  ¬|¢  ´~" U"  €       []" U"          {}" U"\\          "},
    {"fr-ca", U"#1234567890-=" U"qwertyuiop^¸" U"asdfghjkl;`<" U"«zxcvbnm,.é",
              U"|!\"/$%?&*()_+" U"QWERTYUIOP ¨" U"ASDFGHJKL: >" U"»ZXCVBNM' É",
              U"\\±@£¢¤¬¦²³¼½¾" U"        §¶[]" U"         ~{}" U"°      µ  ´"},
    {"es", U"º1234567890'¡" U"qwertyuiop`+" U"asdfghjklñ´ç" U"<zxcvbnm,.-",
           U"ª!\"·$%&/()=?¿" U"QWERTYUIOP^*" U"ASDFGHJKLÑ¨Ç" U">ZXCVBNM;:_",
           U"\\|@#~€¬      " U"          []" U"          {}" U"           "},
    {"it", U"\\1234567890'ì" U"qwertyuiopè+" U"asdfghjklòàù" U"<zxcvbnm,.-",
           U"|!\"£$%&/()=?^" U"QWERTYUIOPé*" U"ASDFGHJKLç°§" U">ZXCVBNM;:_",
           U"           `~" U"  €       []" U"         @# " U"           "},
    {"pt", U"\\1234567890'«" U"qwertyuiop+´" U"asdfghjklçº~" U"<zxcvbnm,.-",
           U"|!\"#$%&/()=?»" U"QWERTYUIOP*`" U"ASDFGHJKLÇª^" U">ZXCVBNM;:_",
           U"  @£§ ¬{[]}  " U"  €       ¨ " U"            " U"           "},
    {"pt-br", U"'1234567890-=" U"qwertyuiop´[" U"asdfghjklç~]" U"\\zxcvbnm,.;",
              U"\"!@#$%¨&*()_+" U"QWERTYUIOP`{" U"ASDFGHJKLÇ^}" U"|ZXCVBNM<>:",
              U" ¹²³£¢¬    § " U"  €       ª°" U"           º" U"           ", false, true},
    {"sv", U"§1234567890+´" U"qwertyuiopå¨" U"asdfghjklöä'" U"<zxcvbnm,.-",
           U"½!\"#¤%&/()=?`" U"QWERTYUIOPÅ^" U"ASDFGHJKLÖÄ*" U">ZXCVBNM;:_",
           U"  @£$€ {[]}\\ " U"           ~" U"            " U"|      µ   "},
    {"fi", U"§1234567890+´" U"qwertyuiopå¨" U"asdfghjklöä'" U"<zxcvbnm,.-",
           U"½!\"#¤%&/()=?`" U"QWERTYUIOPÅ^" U"ASDFGHJKLÖÄ*" U">ZXCVBNM;:_",
           U"  @£$€ {[]}\\ " U"           ~" U"            " U"|      µ   "},
    {"da", U"½1234567890+´" U"qwertyuiopå¨" U"asdfghjklæø'" U"<zxcvbnm,.-",
           U"§!\"#¤%&/()=?`" U"QWERTYUIOPÅ^" U"ASDFGHJKLÆØ*" U">ZXCVBNM;:_",
           U"  @£$€ {[]} |" U"           ~" U"            " U"\\      µ   "},
    {"fo", U"½1234567890+´" U"qwertyuiopåð" U"asdfghjklæø'" U"<zxcvbnm,.-",
           U"§!\"#¤%&/()=?`" U"QWERTYUIOPÅÐ" U"ASDFGHJKLÆØ*" U">ZXCVBNM;:_",
           U"  @£$€ {[]} |" U"          ¨~" U"           ^" U"\\      µ   "},
    {"no", U"|1234567890+\\" U"qwertyuiopå¨" U"asdfghjkløæ'" U"<zxcvbnm,.-",
           U"§!\"#¤%&/()=?`" U"QWERTYUIOPÅ^" U"ASDFGHJKLØÆ*" U">ZXCVBNM;:_",
           U"  @£$€ {[]} ´" U"           ~" U"            " U"       µ   "},
    {"is", U"°1234567890ö-" U"qwertyuiopð'" U"asdfghjklæ´+" U"<zxcvbnm,.þ",
           U"¨!\"#$%&/()=Ö_" U"QWERTYUIOPÐ?" U"ASDFGHJKLÆ *" U">ZXCVBNM;:Þ",
           U"       {[]}\\ " U"@ €        ~" U"          ^`" U"|      µ   "},
    {"et", U"ˇ1234567890+´" U"qwertyuiopüõ" U"asdfghjklöä'" U"<zxcvbnm,.-",
           U"~!\"#¤%&/()=?`" U"QWERTYUIOPÜÕ" U"ASDFGHJKLÖÄ*" U">ZXCVBNM;:_",
           U"  @£$€ {[]}\\ " U"           §" U" š        ^½" U"|ž         "},
    {"nl", U"@1234567890/°" U"qwertyuiop¨*" U"asdfghjkl+´<" U"]zxcvbnm,.-",
           U"§!\"#$%&_()'?~" U"QWERTYUIOP^|" U"ASDFGHJKL±`>" U"[ZXCVBNM;:=",
           U"¬¹²³¼½¾£{}   " U"  €         " U" ß          " U"¦           "},
    {"nl-be", U"²&é\"'(§è!çà)-" U"azertyuiop^$" U"qsdfghjklmùµ" U"<wxcvbn,;:=",
              U"³1234567890°_" U"AZERTYUIOP¨*" U"QSDFGHJKLM%£" U">WXCVBN?./+",
              U" |@#  ^  {}  " U"  €       []" U"          ´`" U"\\         ~"},
    {"cz", U";+ěščřžýáíé=´" U"qwertzuiopú)" U"asdfghjklů§¨" U"\\yxcvbnm,.-",
           U"°1234567890%ˇ" U"QWERTZUIOP/(" U"ASDFGHJKL\"!'" U"|YXCVBNM?:_",
           U" ~ˇ^˘°˛`˙´˝¨¸" U"\\|€       ÷×" U" đĐ[]  łŁ$ß¤" U"  #&@{}    "},
    {"hu", U"0123456789öüó" U"qwertzuiopőú" U"asdfghjkléáű" U"íyxcvbnm,.-",
           U"§'\"+!%/=()ÖÜÓ" U"QWERTZUIOPŐÚ" U"ASDFGHJKLÉÁŰ" U"ÍYXCVBNM?:_",
           U" ~ˇ^˘°˛`˙´˝¨¸" U"\\|Ä   €   ÷×" U"äđĐ[] íłŁ$ß¤" U"<>#&@{} ; *"},
    {"pl", U"`1234567890-=" U"qwertyuiop[]" U"asdfghjkl;'\\" U" zxcvbnm,./",
           U"~!@#$%^&*()_+" U"QWERTYUIOP{}" U"ASDFGHJKL:\"|" U" ZXCVBNM<>?",
           U"             " U"  ę   €  ó  " U"ąś      ł   " U" żźć  ń    "},
    {"hr", U"¸1234567890'+" U"qwertzuiopšđ" U"asdfghjklčćž" U"<yxcvbnm,.-",
           U"¨!\"#$%&/()=?*" U"QWERTZUIOPŠĐ" U"ASDFGHJKLČĆŽ" U">YXCVBNM;:_",
           U" ~ˇ^˘°˛`˙´˝  " U"\\|€       ÷×" U"   []  łŁ ß¤" U"    @{}§   "},
    {"sl", U"¸1234567890'+" U"qwertzuiopšđ" U"asdfghjklčćž" U"<yxcvbnm,.-",
           U"¨!\"#$%&/()=?*" U"QWERTZUIOPŠĐ" U"ASDFGHJKLČĆŽ" U">YXCVBNM;:_",
           U" ~ˇ^˘°˛`˙´˝  " U"\\|€       ÷×" U"   []  łŁ ß¤" U"    @{}§   "},
    {"tr", U"\"1234567890*-" U"qwertyuıopğü" U"asdfghjklşi," U"<zxcvbnmöç.",
           U"é!'^+%&/()=?_" U"QWERTYUIOPĞÜ" U"ASDFGHJKLŞİ;" U">ZXCVBNMÖÇ:",
           U"<>£#$½ {[]}\\|" U"@ €        ~" U"æß         `" U"|          "},
    {"ru", U"ё1234567890-=" U"йцукенгшщзхъ" U"фывапролджэ\\" U"<ячсмитьбю.",
           U"Ё!\"№;%:?*()_+" U"ЙЦУКЕНГШЩЗХЪ" U"ФЫВАПРОЛДЖЭ/" U">ЯЧСМИТЬБЮ,", U""},
    {"bepo", U"$\"«»()@+-/*=%" U"bépoè^vdljzw" U"auie,ctsrnmç" U"êàyx.k’qghf",
             U"#1234567890°`" U"BÉPOÈ!VDLJZW" U"AUIE;CTSRNMÇ" U"ÊÀYX:K?QGHF",
             U"  <>[]^±  ×  " U"| &œ        " U"æù €        " U"/\\{}…~¿    "},
    {"ja", U" 1234567890-^" U"qwertyuiop@[" U"asdfghjkl;:]" U" zxcvbnm,./",
           U" !\"#$%&'() =~" U"QWERTYUIOP`{" U"ASDFGHJKL+*}" U" ZXCVBNM<>?", U"", true},
};
// clang-format on

// Keysyms that are keys, not characters.
struct Named {
  u32 keysym;
  u16 code;
};
constexpr Named named[] = {
    {0xff08, KEY_BACKSPACE},
    {0xff09, KEY_TAB},
    {0xfe20, KEY_TAB},
    {0xff0a, KEY_ENTER},
    {0xff0d, KEY_ENTER},
    {0xff13, KEY_PAUSE},
    {0xff14, KEY_SCROLLLOCK},
    {0xff15, KEY_SYSRQ},
    {0xff1b, KEY_ESC},
    {0xff22, KEY_MUHENKAN},
    {0xff23, KEY_HENKAN},
    {0xff27, KEY_KATAKANAHIRAGANA},
    {0xff2a, KEY_ZENKAKUHANKAKU},
    {0xff31, KEY_HANGEUL},
    {0xff34, KEY_HANJA},
    {0xff50, KEY_HOME},
    {0xff51, KEY_LEFT},
    {0xff52, KEY_UP},
    {0xff53, KEY_RIGHT},
    {0xff54, KEY_DOWN},
    {0xff55, KEY_PAGEUP},
    {0xff56, KEY_PAGEDOWN},
    {0xff57, KEY_END},
    {0xff61, KEY_SYSRQ},
    {0xff63, KEY_INSERT},
    {0xff65, KEY_UNDO},
    {0xff66, KEY_AGAIN},
    {0xff67, KEY_COMPOSE},
    {0xff68, KEY_FIND},
    {0xff69, KEY_STOP},
    {0xff6a, KEY_HELP},
    {0xff6b, KEY_PAUSE},
    {0xff7e, KEY_RIGHTALT},
    {0xff7f, KEY_NUMLOCK},
    {0xff8d, KEY_KPENTER},
    {0xff95, KEY_KP7},
    {0xff96, KEY_KP4},
    {0xff97, KEY_KP8},
    {0xff98, KEY_KP6},
    {0xff99, KEY_KP2},
    {0xff9a, KEY_KP9},
    {0xff9b, KEY_KP3},
    {0xff9c, KEY_KP1},
    {0xff9d, KEY_KP5},
    {0xff9e, KEY_KP0},
    {0xff9f, KEY_KPDOT},
    {0xffaa, KEY_KPASTERISK},
    {0xffab, KEY_KPPLUS},
    {0xffac, KEY_KPCOMMA},
    {0xffad, KEY_KPMINUS},
    {0xffae, KEY_KPDOT},
    {0xffaf, KEY_KPSLASH},
    {0xffb0, KEY_KP0},
    {0xffb1, KEY_KP1},
    {0xffb2, KEY_KP2},
    {0xffb3, KEY_KP3},
    {0xffb4, KEY_KP4},
    {0xffb5, KEY_KP5},
    {0xffb6, KEY_KP6},
    {0xffb7, KEY_KP7},
    {0xffb8, KEY_KP8},
    {0xffb9, KEY_KP9},
    {0xffbd, KEY_KPEQUAL},
    {0xffbe, KEY_F1},
    {0xffbf, KEY_F2},
    {0xffc0, KEY_F3},
    {0xffc1, KEY_F4},
    {0xffc2, KEY_F5},
    {0xffc3, KEY_F6},
    {0xffc4, KEY_F7},
    {0xffc5, KEY_F8},
    {0xffc6, KEY_F9},
    {0xffc7, KEY_F10},
    {0xffc8, KEY_F11},
    {0xffc9, KEY_F12},
    {0xffe1, KEY_LEFTSHIFT},
    {0xffe2, KEY_RIGHTSHIFT},
    {0xffe3, KEY_LEFTCTRL},
    {0xffe4, KEY_RIGHTCTRL},
    {0xffe5, KEY_CAPSLOCK},
    {0xffe7, KEY_LEFTMETA},
    {0xffe8, KEY_RIGHTMETA},
    {0xffe9, KEY_LEFTALT},
    {0xffea, KEY_RIGHTALT},
    {0xffeb, KEY_LEFTMETA},
    {0xffec, KEY_RIGHTMETA},
    {0xffff, KEY_DELETE},
    {0xfe03, KEY_RIGHTALT},
    {0x1008ff11, KEY_VOLUMEDOWN},
    {0x1008ff12, KEY_MUTE},
    {0x1008ff13, KEY_VOLUMEUP},
    {0x1008ff14, KEY_PLAYPAUSE},
    {0x1008ff15, KEY_STOPCD},
    {0x1008ff16, KEY_PREVIOUSSONG},
    {0x1008ff17, KEY_NEXTSONG},
};

// Dead keys stand where their accents are printed.
constexpr std::pair<u32, char32_t> others[] = {{0xfe50, U'`'}, {0xfe51, U'´'}, {0xfe52, U'^'}, {0xfe53, U'~'}, {0xfe55, U'˘'},
                                               {0xfe56, U'˙'}, {0xfe57, U'¨'}, {0xfe58, U'°'}, {0xfe59, U'˝'}, {0xfe5a, U'ˇ'},
                                               {0xfe5b, U'¸'}, {0xfe5c, U'˛'}, {0x20ac, U'€'}, {0x13bc, U'Œ'}, {0x13bd, U'œ'},
                                               {0x6b0, U'№'},  {0x2b9, U'ı'},  {0x2a9, U'İ'},  {0x2ab, U'Ğ'},  {0x2bb, U'ğ'}};
// The keysyms 0x1a1 … 0x1ff are ISO 8859-2's characters, 0x6c0 … 0x6ff KOI8-R's letters.
constexpr std::u32string_view latin_2 =
    U"Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u00adŽŻ°ą˛ł´ľśˇ¸šşťź˝žżŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";
constexpr std::u32string_view koi8 = U"юабцдефгхийклмнопярстужвьызшэщчъЮАБЦДЕФГХИЙКЛМНОПЯРСТУЖВЬЫЗШЭЩЧЪ";

std::optional<Stroke> in_layout(const Layout& layout, char32_t c) {
  const auto look = [&](std::u32string_view row, bool shift, bool alt_gr) -> std::optional<Stroke> {
    const usize at = row.find(c);
    if (at == row.npos || at >= std::size(keys)) return std::nullopt;
    return Stroke{.code = keys[at], .shift = shift, .alt_gr = alt_gr, .character = true};
  };
  if (const auto s = look(layout.plain, false, false)) return s;
  if (const auto s = look(layout.shift, true, false)) return s;
  if (const auto s = look(layout.alt_gr, false, true)) return s;
  const auto key = [](u16 code, bool shift) { return Stroke{.code = code, .shift = shift, .character = true}; };
  if (layout.japanese && c == U'\\') return key(KEY_YEN, false);
  if (layout.japanese && c == U'|') return key(KEY_YEN, true);
  if (layout.japanese && c == U'_') return key(KEY_RO, true);
  if (layout.brazilian && c == U'/') return key(KEY_RO, false);
  if (layout.brazilian && c == U'?') return key(KEY_RO, true);
  return std::nullopt;
}

}  // namespace

bool has_layout(std::string_view name) { return std::ranges::find(layouts, name, &Layout::name) != std::end(layouts); }
const Layout& find_layout(std::string_view name) {
  const auto at = std::ranges::find(layouts, name, &Layout::name);
  return at == std::end(layouts) ? layouts[0] : *at;
}

char32_t keysym_to_unicode(u32 keysym) {
  if ((keysym >= 0x20 && keysym <= 0x7e) || (keysym >= 0xa0 && keysym <= 0xff)) return keysym;
  if (keysym >= 0x0100'0100 && keysym <= 0x0110'ffff) return keysym - 0x0100'0000;
  if (keysym >= 0x1a1 && keysym <= 0x1ff) return latin_2[keysym - 0x1a1];
  if (keysym >= 0x6c0 && keysym <= 0x6ff) return koi8[keysym - 0x6c0];
  if (keysym == 0x6a3) return U'ё';
  if (keysym == 0x6b3) return U'Ё';
  for (const auto& [sym, c] : others)
    if (sym == keysym) return c;
  return 0;
}

std::optional<Stroke> find_stroke(const Layout& layout, u32 keysym) {
  for (const Named& n : named)
    if (n.keysym == keysym) return Stroke{.code = n.code};
  const char32_t c = keysym_to_unicode(keysym);
  if (!c) return std::nullopt;
  if (c == U' ' || c == U'\u00a0') return Stroke{.code = KEY_SPACE};
  if (const auto s = in_layout(layout, c)) return s;
  return in_layout(layouts[0], c);
}

}  // namespace vmm::ui
