package manifest

import (
	"encoding/json"
	"net/url"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// SPDXSuffix ends the name of the SPDX document beside an image.
const SPDXSuffix = ".spdx.json"

// The parts of an SPDX 2.3 document that are written here (SPDX specification
// 2.3, clauses 6, 7 and 11, in the JSON form of its annex).
type (
	spdxDocument struct {
		SPDXVersion       string             `json:"spdxVersion"`
		DataLicense       string             `json:"dataLicense"`
		SPDXID            string             `json:"SPDXID"`
		Name              string             `json:"name"`
		DocumentNamespace string             `json:"documentNamespace"`
		CreationInfo      spdxCreation       `json:"creationInfo"`
		Packages          []spdxPackage      `json:"packages"`
		Relationships     []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		Name             string          `json:"name"`
		SPDXID           string          `json:"SPDXID"`
		VersionInfo      string          `json:"versionInfo,omitempty"`
		Supplier         string          `json:"supplier,omitempty"`
		DownloadLocation string          `json:"downloadLocation"`
		FilesAnalyzed    bool            `json:"filesAnalyzed"`
		Checksums        []spdxChecksum  `json:"checksums,omitempty"`
		LicenseConcluded string          `json:"licenseConcluded"`
		LicenseDeclared  string          `json:"licenseDeclared"`
		LicenseComments  string          `json:"licenseComments,omitempty"`
		CopyrightText    string          `json:"copyrightText"`
		ExternalRefs     []spdxReference `json:"externalRefs,omitempty"`
		PrimaryPurpose   string          `json:"primaryPackagePurpose,omitempty"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxReference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxRelationship struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

const noAssertion = "NOASSERTION"

// spdxSpace is the name space of documents' identifiers (a random constant).
var spdxSpace = uuid.MustParse("2b0cfe4e-9a0e-4b0f-8f27-53ab6f0f5c11")

// SPDX returns the image's materials as an SPDX 2.3 document in JSON. licences
// gives the licences of a Debian package as its copyright file names them, nil
// where it does not say. Equal manifests and licences give equal bytes.
func (m *Image) SPDX(licences map[string][]string) []byte {
	d := spdxDocument{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", Name: m.Name,
		DocumentNamespace: "https://spdx.org/spdxdocs/" + m.Name + "-" + uuid.NewSHA1(spdxSpace, m.Text()).String(),
		CreationInfo:      spdxCreation{m.Time.UTC().Format(time.RFC3339), []string{"Tool: grid-appliance-builder"}},
	}
	relate := func(from, kind, to string) {
		d.Relationships = append(d.Relationships, spdxRelationship{from, kind, to})
	}
	const image = "SPDXRef-Image"
	d.Packages = append(d.Packages, spdxPackage{Name: m.Name, SPDXID: image, VersionInfo: m.Base.ID, DownloadLocation: noAssertion,
		LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion, PrimaryPurpose: "OPERATING-SYSTEM"})
	relate("SPDXRef-DOCUMENT", "DESCRIBES", image)
	for _, p := range m.Packages {
		s := m.debianPackage(p, licences[p.Name])
		d.Packages = append(d.Packages, s)
		relate(image, "CONTAINS", s.SPDXID)
	}
	for _, l := range m.Modules {
		s := spdxPackage{Name: l.Name, SPDXID: spdxID("Module", l.Name), VersionInfo: l.Version, DownloadLocation: noAssertion,
			Checksums: []spdxChecksum{{"SHA256", l.SHA256}}, LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion}
		d.Packages = append(d.Packages, s)
		relate(image, "CONTAINS", s.SPDXID)
	}
	seen := map[string]bool{}
	for _, p := range m.Programs {
		s := spdxPackage{Name: p.Name, SPDXID: spdxID("Program", p.Name), VersionInfo: p.Go, DownloadLocation: noAssertion,
			Checksums: []spdxChecksum{{"SHA256", p.SHA256}}, LicenseConcluded: "Apache-2.0", LicenseDeclared: "Apache-2.0", CopyrightText: noAssertion,
			PrimaryPurpose: "APPLICATION"}
		d.Packages = append(d.Packages, s)
		relate(image, "CONTAINS", s.SPDXID)
		for _, g := range p.Modules {
			id := spdxID("Go", g.Path+"-"+g.Version)
			if !seen[id] {
				seen[id] = true
				d.Packages = append(d.Packages, spdxPackage{Name: g.Path, SPDXID: id, VersionInfo: g.Version, DownloadLocation: noAssertion,
					LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion,
					ExternalRefs: []spdxReference{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + g.Path + "@" + url.PathEscape(g.Version)}}, PrimaryPurpose: "LIBRARY"})
			}
			relate(s.SPDXID, "STATIC_LINK", id)
		}
	}
	text, _ := json.MarshalIndent(d, "", " ") // strings and booleans: cannot fail
	return append(text, '\n')
}

// debianPackage describes a .deb. Of one that a module brings, which has no
// hash of its own, nobody says who supplied it.
func (m *Image) debianPackage(p Package, licences []string) spdxPackage {
	s := spdxPackage{Name: p.Name, SPDXID: spdxID("Package", p.Name), VersionInfo: p.Version, Supplier: noAssertion,
		DownloadLocation: noAssertion, LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, CopyrightText: noAssertion}
	if p.SHA256 != "" {
		s.Checksums = []spdxChecksum{{"SHA256", p.SHA256}}
		s.Supplier = "Organization: Debian"
	}
	if p.Source != "" {
		s.Supplier = "Organization: " + p.Source
	}
	if expression, ok := spdxLicence(licences); ok {
		s.LicenseDeclared = expression
	} else if len(licences) > 0 {
		s.LicenseComments = "Its copyright file names: " + strings.Join(licences, ", ")
	}
	s.ExternalRefs = []spdxReference{{"PACKAGE-MANAGER", "purl", m.purl(p)}}
	return s
}

// purl names a .deb by its vendor (package URL specification, type deb):
// Debian's by their release, others by where they come from.
func (m *Image) purl(p Package) string {
	vendor, query := "debian", url.Values{"distro": {m.Base.Suite}}
	if p.Source != "" {
		vendor, query = p.Source, url.Values{}
		for _, s := range m.Sources {
			if s.Name == p.Source && s.URL != "" {
				query.Set("repository_url", s.URL)
			}
		}
	}
	if p.Architecture != "" {
		query.Set("arch", p.Architecture)
	}
	name := "pkg:deb/" + vendor + "/" + url.PathEscape(p.Name) + "@" + url.QueryEscape(p.Version)
	if len(query) > 0 {
		name += "?" + query.Encode()
	}
	return name
}

var notInID = regexp.MustCompile(`[^0-9A-Za-z.-]`)

// spdxID makes an identifier: letters, digits, "." and "-". Other characters
// become their number, so that different names stay different.
func spdxID(kind, name string) string {
	return "SPDXRef-" + kind + "-" + notInID.ReplaceAllStringFunc(name, func(c string) string { return "-x" + strconv.FormatInt(int64(c[0]), 16) + "-" })
}

// debianLicences are short names of Debian's copyright files (copyright format
// 1.0 §7.1) by their name in the SPDX License List.
var debianLicences = map[string]string{
	"expat": "MIT", "mit": "MIT", "apache-2.0": "Apache-2.0", "apache-2": "Apache-2.0", "artistic": "Artistic-1.0-Perl", "artistic-2.0": "Artistic-2.0",
	"bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause", "isc": "ISC", "zlib": "Zlib", "cc0": "CC0-1.0",
	"cc0-1.0": "CC0-1.0", "gpl-1": "GPL-1.0-only", "gpl-1+": "GPL-1.0-or-later", "gpl-2": "GPL-2.0-only", "gpl-2.0": "GPL-2.0-only", "gpl-2+": "GPL-2.0-or-later",
	"gpl-2.0+": "GPL-2.0-or-later", "gpl-3": "GPL-3.0-only", "gpl-3.0": "GPL-3.0-only", "gpl-3+": "GPL-3.0-or-later", "gpl-3.0+": "GPL-3.0-or-later",
	"lgpl-2": "LGPL-2.0-only", "lgpl-2+": "LGPL-2.0-or-later", "lgpl-2.0+": "LGPL-2.0-or-later", "lgpl-2.1": "LGPL-2.1-only", "lgpl-2.1+": "LGPL-2.1-or-later",
	"lgpl-3": "LGPL-3.0-only", "lgpl-3+": "LGPL-3.0-or-later", "agpl-3": "AGPL-3.0-only", "agpl-3+": "AGPL-3.0-or-later", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0",
	"gfdl-1.3": "GFDL-1.3-only", "gfdl-1.3+": "GFDL-1.3-or-later", "psf-2": "PSF-2.0", "openssl": "OpenSSL", "openldap-2.8": "OLDAP-2.8",
}

// spdxLicence joins licences that are all on SPDX's list.
func spdxLicence(names []string) (string, bool) {
	known := map[string]bool{}
	for _, n := range names {
		id, ok := debianLicences[strings.ToLower(n)]
		if !ok {
			return "", false
		}
		known[id] = true
	}
	var ids []string
	for id := range known {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return strings.Join(ids, " AND "), len(ids) > 0
}

var licenceLine = regexp.MustCompile(`(?m)^License:[ \t]*(\S.*)$`)

// Licences returns the short names in a package's copyright file, sorted, when
// it has the machine-readable form, else nil. A choice such as "GPL-2 or MIT"
// is one name.
func Licences(copyright []byte) []string {
	head, _, _ := strings.Cut(string(copyright[:min(len(copyright), 400)]), "\n\n")
	if !strings.Contains(head, "copyright-format/1.0") {
		return nil
	}
	seen := map[string]bool{}
	for _, m := range licenceLine.FindAllStringSubmatch(string(copyright), -1) {
		seen[strings.TrimSpace(m[1])] = true
	}
	var names []string
	for n := range seen {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}
