//! Checks on one Rust file: its opening, its sizes, and calls that have no place in it.

use std::path::Path;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::Visit;

use super::Finding;

/// Most lines of a file.
const FILE_LINES_MAX: usize = 800;
/// Most lines of a function, from its signature to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Most characters of a line.
const LINE_CHARS_MAX: usize = 100;

/// Folders where unsafe code may live: the ring engine, the BPF loader, BPF itself, and the lab's
/// preloaded library, which cannot exist without it.
const UNSAFE_HOMES: &[&str] = &["proxy/ring", "proxy/bpf", "ebpf", "tests/shim"];

/// Folders of crates that must not read clocks, open sockets or draw randomness.
const PURE: &[&str] =
    &["proxy/wire", "proxy/hba", "proxy/session", "proxy/control", "ebpf/rules", "ebpf/abi"];

/// Checks one file; `text` is its content.
pub(super) fn check(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = lines(file, text);
    match syn::parse_file(text) {
        Ok(parsed) => {
            if is_pure_root(file) && !has_attribute(&parsed, "no_std") {
                let what = "is the root of a pure crate; open it with #![no_std]";
                findings.push(Finding::new(file, 0, what));
            }
            let mut walk = Walk { file, findings, in_tests: is_test(file) };
            walk.visit_file(&parsed);
            findings = walk.findings;
        }
        Err(error) => findings.push(Finding::new(file, 0, format!("does not parse: {error}"))),
    }
    findings
}

fn lines(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        let what = "does not open with //!: say what lives here and what it must not know";
        findings.push(Finding::new(file, 1, what));
    }
    let count = text.lines().count();
    if count > FILE_LINES_MAX {
        let what = format!("has {count} lines, at most {FILE_LINES_MAX}; split it by concern");
        findings.push(Finding::new(file, 0, what));
    }
    for (index, line) in text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            let what = format!("has {chars} characters, at most {LINE_CHARS_MAX}; break the line");
            findings.push(Finding::new(file, index + 1, what));
        }
        // Written in two halves so that this file passes its own check.
        if line.contains(concat!("TO", "DO")) || line.contains(concat!("FIX", "ME")) {
            let what = "leaves work for later; do it, or describe it in docs/";
            findings.push(Finding::new(file, index + 1, what));
        }
    }
    findings
}

fn is_test(file: &Path) -> bool {
    file.starts_with("tests/tests")
}

fn is_pure_root(file: &Path) -> bool {
    PURE.iter().any(|home| file == Path::new(home).join("src/lib.rs"))
}

fn has_attribute(parsed: &syn::File, name: &str) -> bool {
    parsed.attrs.iter().any(|attribute| attribute.path().is_ident(name))
}

/// Walks the syntax tree and knows whether it is inside test code.
struct Walk<'a> {
    file: &'a Path,
    findings: Vec<Finding>,
    in_tests: bool,
}

impl Walk<'_> {
    fn find(&mut self, span: Span, what: impl Into<String>) {
        self.findings.push(Finding::new(self.file, span.start().line, what));
    }

    fn function(&mut self, name: &syn::Ident, whole: Span) {
        let count = whole.end().line - whole.start().line + 1;
        if count > FUNCTION_LINES_MAX {
            let what = format!(
                "function {name} has {count} lines, at most {FUNCTION_LINES_MAX}; make its phases \
                 functions of their own"
            );
            self.find(name.span(), what);
        }
    }

    fn with_tests(&mut self, in_tests: bool, walk: impl FnOnce(&mut Self)) {
        let before = self.in_tests;
        self.in_tests |= in_tests;
        walk(self);
        self.in_tests = before;
    }
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let tests = item.attrs.iter().any(is_cfg_test);
        self.with_tests(tests, |walk| syn::visit::visit_item_mod(walk, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let start = item.vis.span().join(item.sig.span()).unwrap_or(item.sig.span());
        self.function(&item.sig.ident, start.join(item.block.span()).unwrap_or(start));
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let start = item.sig.span();
        self.function(&item.sig.ident, start.join(item.block.span()).unwrap_or(start));
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_expr_unsafe(&mut self, expression: &'ast syn::ExprUnsafe) {
        if !UNSAFE_HOMES.iter().any(|home| self.file.starts_with(home)) {
            let homes = UNSAFE_HOMES.join(", ");
            let what = format!("unsafe code outside its homes ({homes}); move it there");
            self.find(expression.unsafe_token.span, what);
        }
        syn::visit::visit_expr_unsafe(self, expression);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let last = path.segments.last().map(|segment| segment.ident.to_string());
        let before = path.segments.iter().rev().nth(1).map(|segment| segment.ident.to_string());
        match (before.as_deref(), last.as_deref()) {
            (Some("thread" | "time"), Some("sleep")) if self.in_tests => self.find(
                path.span(),
                "a test sleeps; wait for a named condition with a deadline instead",
            ),
            (Some("process"), Some("exit")) => self.find(
                path.span(),
                "ends the process and skips every destructor; return an error to main instead",
            ),
            _ => {}
        }
        syn::visit::visit_path(self, path);
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<String> {
        check(Path::new(file), text).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn file_without_module_docs_is_found() {
        let found = found("proxy/pgx/src/x.rs", "fn f() {}\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("proxy/pgx/src/x.rs:1: does not open"));
    }

    #[test]
    fn sizes_are_bounded_by_line_function_and_file() {
        let long_line = format!("//! x\n// {}\n", "y".repeat(LINE_CHARS_MAX));
        assert!(found("x.rs", &long_line)[0].contains("x.rs:2: has 103 characters"));

        let body = "    g();\n".repeat(FUNCTION_LINES_MAX - 1);
        let text = format!("//! x\nfn f() {{\n{body}}}\n");
        assert!(found("x.rs", &text)[0].contains("function f has 71 lines"));
        let text = format!("//! x\nimpl X {{\npub fn f() {{\n{body}}}\n}}\n");
        assert!(found("x.rs", &text)[0].contains("function f has 71 lines"));

        let text = format!("//! x\n{}", "// y\n".repeat(FILE_LINES_MAX));
        assert!(found("x.rs", &text)[0].contains("has 801 lines"));
    }

    #[test]
    fn function_at_the_bound_passes() {
        let body = "    g();\n".repeat(FUNCTION_LINES_MAX - 2);
        let text = format!("//! x\n/// Docs do not count.\nfn f() {{\n{body}}}\n");
        assert_eq!(found("x.rs", &text), Vec::<String>::new());
    }

    #[test]
    fn unsafe_code_is_found_outside_its_homes_only() {
        let text = "//! x\nfn f() {\n    unsafe { g() }\n}\n";
        assert!(found("proxy/pgx/src/x.rs", text)[0].contains(":3: unsafe code"));
        assert_eq!(found("proxy/ring/src/x.rs", text), Vec::<String>::new());
    }

    #[test]
    fn sleeping_tests_are_found_and_sleeping_code_is_not() {
        let text = "//! x\nfn f() {\n    std::thread::sleep(D);\n}\n#[cfg(test)]\nmod tests {\n    \
                    fn t() {\n        tokio::time::sleep(D);\n    }\n}\n";
        let unit = found("proxy/pgx/src/x.rs", text);
        assert_eq!(unit.len(), 1, "{unit:?}");
        assert!(unit[0].contains(":8: a test sleeps"));
        assert_eq!(found("tests/tests/e2e/x.rs", text).len(), 2);
    }

    #[test]
    fn pure_crate_must_do_without_std() {
        assert!(found("proxy/wire/src/lib.rs", "//! x\n")[0].contains("no_std"));
        assert_eq!(found("proxy/wire/src/lib.rs", "//! x\n#![no_std]\n"), Vec::<String>::new());
    }

    #[test]
    fn exit_in_the_middle_is_found() {
        let text = "//! x\nfn f() {\n    std::process::exit(1);\n}\n";
        assert!(found("proxy/pgx/src/x.rs", text)[0].contains("skips every destructor"));
    }
}
